import { sdk } from './sdk'

// User of the image. Waypost and its Tor accept only a directory that belongs to their user.
const USER = '999'

export const electrumPort = 50001
export const pagePort = 4280

export const main = sdk.setupMain(async ({ effects }) => {
  const container = sdk.SubContainer.of(
    effects,
    { imageId: 'waypost' },
    sdk.Mounts.of().mountVolume({
      volumeId: 'main',
      subpath: null,
      mountpoint: '/data',
      readonly: false,
    }),
    'waypost',
  )
  const electrs = await sdk.host
    .getBridgeAddress(effects, { packageId: 'electrs', hostId: 'electrum', internalPort: 50001, ssl: false })
    .const()
  // Names under which StartOS serves the page. Waypost accepts all IP addresses, and rejects other names.
  const names = await sdk.host
    .getOwn(effects, 'page', (host) =>
      Object.values(host?.bindings[pagePort]?.interfaces ?? {})
        .flatMap((page) => page.addressInfo.hostnames.map((info) => info.hostname))
        .filter((name) => !name.includes(':')),
    )
    .const()
  return sdk.Daemons.of(effects)
    .addOneshot('data-directory', {
      subcontainer: container,
      exec: {
        command: ['install', '-d', '-m', '0700', '-o', USER, '-g', USER, '/data/waypost'],
        user: 'root',
      },
      requires: [],
    })
    .addDaemon('waypost', {
      subcontainer: container,
      exec: {
        command: ['waypost', 'run', '--config', '/dev/null'],
        user: USER,
        env: {
          WAYPOST_DATA_DIR: '/data/waypost',
          WAYPOST_LISTEN__TCP: `["0.0.0.0:${electrumPort}"]`,
          WAYPOST_STATUS__LISTEN: `0.0.0.0:${pagePort}`,
          WAYPOST_STATUS__ALLOWED_HOSTS: JSON.stringify(names),
          WAYPOST_TOR__MODE: 'embedded',
          // Without electrs, Waypost serves discovery only. It starts again when electrs has an address.
          ...(electrs ? { WAYPOST_BACKEND__ELECTRUM: `tcp://${electrs}` } : {}),
          // The server of a home is not announced to the public network unless its owner decides so.
          WAYPOST_IDENTITY__ANNOUNCE: 'false',
        },
      },
      ready: {
        display: 'Electrum',
        gracePeriod: 30_000,
        fn: () =>
          sdk.healthCheck.checkPortListening(effects, electrumPort, {
            successMessage: 'Clients can connect.',
            errorMessage: 'Waypost does not listen.',
          }),
      },
      requires: ['data-directory'],
    })
})
