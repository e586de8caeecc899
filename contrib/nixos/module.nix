# NixOS module for Waypost. In configuration.nix, with a package built from this repository:
#
#   imports = [ ./waypost/contrib/nixos/module.nix ];
#   services.waypost = {
#     enable = true;
#     package = pkgs.rustPlatform.buildRustPackage {
#       pname = "waypost"; version = "0.1.0"; src = builtins.fetchGit ./waypost;
#       cargoLock.lockFile = ./waypost/Cargo.lock; doCheck = false;
#     };
#     settings.identity = { host = "electrum.example.org"; tcp_port = 50001; };
#   };
#
# `sudo waypost status` shows the state.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.waypost;
  toml = pkgs.formats.toml { };
  file = toml.generate "waypost.toml" ({ data_dir = "/var/lib/waypost"; } // cfg.settings);
in
{
  options.services.waypost = {
    enable = lib.mkEnableOption "Waypost, peer discovery for Electrum servers";
    package = lib.mkOption {
      type = lib.types.package;
      description = "The package with the program `waypost`.";
    };
    settings = lib.mkOption {
      type = toml.type;
      default = { };
      description = "Contents of waypost.toml; docs/configuration.md lists all keys.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    # The default configuration of the commands.
    environment.etc."waypost/waypost.toml".source = file;
    systemd.services.waypost = {
      description = "Waypost, peer discovery for Electrum servers";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" "tor.service" "tor@default.service" ];
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        Type = "notify";
        # An invalid configuration fails at build time. The files that it names are not available then.
        ExecStart = "${cfg.package}/bin/waypost run --config ${pkgs.runCommand "waypost.toml" { } ''
          ${cfg.package}/bin/waypost check-config --skip-files --config ${file} >/dev/null && cp ${file} $out
        ''}";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        Restart = "on-failure";
        RestartSec = 5;
        RestartPreventExitStatus = 78;
        TimeoutStopSec = 15;
        WatchdogSec = 60;
        LimitNOFILE = 16384;
        DynamicUser = true;
        StateDirectory = "waypost";
        StateDirectoryMode = "0700";
        UMask = "0077";
        CapabilityBoundingSet = "";
        AmbientCapabilities = "";
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        PrivateUsers = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        RemoveIPC = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [ "@system-service" "~@privileged @resources" ];
        SystemCallErrorNumber = "EPERM";
        DevicePolicy = "closed";
      };
    };
  };
}
