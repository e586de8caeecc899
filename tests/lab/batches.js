// Sends batches with the client library of BlueWallet and mempool.
//
//   NODE_PATH=target/lab-node/node_modules node batches.js HOST PORT SIZE...
//
// Prints a line for each batch; status 1 if a response is missing or wrong.

const Client = require("@mempool/electrum-client");

const [host, port, ...sizes] = process.argv.slice(2);

async function main() {
  const client = new Client(Number(port), host, "tcp");
  await client.initElectrum({ client: "batches", version: "1.4" }, { maxRetry: 0 });
  for (const size of sizes.map(Number)) {
    const hashes = Array.from({ length: size }, (_, number) => number.toString(16).padStart(64, "0"));
    const answers = await client.blockchainScripthash_getBalanceBatch(hashes);
    const balances = answers.filter((answer) => answer.result && answer.result.confirmed === 0);
    const order = answers.map((answer) => answer.param).join();
    if (balances.length !== size || order !== hashes.join()) throw new Error(`${balances.length} of ${size} balances`);
    console.log(`${size} balances in one batch`);
  }
  process.exit(0);
}

setTimeout(() => { throw new Error("timeout"); }, 30000);
main().catch((error) => { console.error(error); process.exit(1); });
