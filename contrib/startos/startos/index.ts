import { buildManifest, IMPOSSIBLE, VersionGraph, VersionInfo } from '@start9labs/start-sdk'
import { setInterfaces } from './interfaces'
import { manifest as sdkManifest } from './manifest'
import { sdk } from './sdk'

export { main } from './main'

const current = VersionInfo.of({
  version: '0.1.0:0',
  releaseNotes: { en_US: 'First version.' },
  migrations: { up: async () => {}, down: IMPOSSIBLE },
})
const versions = VersionGraph.of({ current, other: [] })

const dependencies = sdk.setupDependencies(async () => ({
  electrs: { kind: 'running', versionRange: '>=0.10.0:0', healthChecks: [] },
}))

export const { createBackup, restoreInit } = sdk.setupBackups(async () => sdk.Backups.ofVolumes('main'))
export const actions = sdk.Actions.of()
export const init = sdk.setupInit(restoreInit, versions, setInterfaces, actions, dependencies)
export const uninit = sdk.setupUninit(versions)
export const manifest = buildManifest(versions, sdkManifest)
