# Port for wallets. Those of electrs and Fulcrum are 50001 and 50002.
export APP_WAYPOST_PORT="50021"
