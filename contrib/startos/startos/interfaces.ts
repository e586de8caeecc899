import { electrumPort, pagePort } from './main'
import { sdk } from './sdk'

export const setInterfaces = sdk.setupInterfaces(async ({ effects }) => {
  const electrum = await sdk.MultiHost.of(effects, 'electrum').bindPort(electrumPort, {
    protocol: null,
    preferredExternalPort: electrumPort,
    addSsl: { preferredExternalPort: 50002, alpn: null, addXForwardedHeaders: false, auth: null },
    secure: null,
  })
  const page = await sdk.MultiHost.of(effects, 'page').bindPort(pagePort, { protocol: 'http' })
  const common = { masked: false, schemeOverride: null, username: null, path: '', query: {} }
  return [
    await electrum.export([
      sdk.createInterface(effects, {
        ...common,
        id: 'electrum',
        name: 'Electrum',
        description: 'Address for Electrum wallets',
        type: 'api',
      }),
    ]),
    await page.export([
      sdk.createInterface(effects, {
        ...common,
        id: 'page',
        name: 'Status page',
        description: 'Names of the node and its peers. Do not publish it.',
        type: 'ui',
      }),
    ]),
  ]
})
