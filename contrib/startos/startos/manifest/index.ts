import { setupManifest } from '@start9labs/start-sdk'

export const manifest = setupManifest({
  id: 'waypost',
  title: 'Waypost',
  license: 'MIT',
  packageRepo: 'https://example.org/waypost',
  upstreamRepo: 'https://example.org/waypost',
  marketingUrl: 'https://example.org/waypost',
  donationUrl: null,
  description: {
    short: { en_US: 'Peer discovery for Electrum servers' },
    long: {
      en_US:
        'Waypost finds the servers of the Electrum network and verifies each by connecting to it, directly or through Tor. In front of electrs, it adds discovery and an onion address.',
    },
  },
  volumes: ['main'],
  images: {
    waypost: {
      source: {
        dockerBuild: {
          dockerfile: '../container/Containerfile',
          workdir: '../..',
        },
      },
      arch: ['x86_64', 'aarch64'],
    },
  },
  dependencies: {
    electrs: {
      description: 'Answers all requests other than discovery.',
      optional: false,
      metadata: {
        title: 'Electrs',
        icon: 'https://example.org/electrs.svg',
      },
    },
  },
})
