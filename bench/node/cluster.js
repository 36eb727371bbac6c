// An application under Node's own primary: `WORKERS=2 node cluster.js app.js`; the policy is Node's own
// variable NODE_CLUSTER_SCHED_POLICY, `rr` or `none`. SIGUSR2 reloads in the way that Node's documentation shows: a new
// worker is started, the old one disconnects when the new one listens, and is killed when that takes longer than 10 s.
const cluster = require('cluster');
const { once } = require('events');

const PATIENCE = 10_000;
let reloading = Promise.resolve();

cluster.setupPrimary({ exec: require('path').resolve(process.argv[2]) });
for (let n = 0; n < Number(process.env.WORKERS); n++) cluster.fork();

cluster.on('exit', (worker) => { if (!worker.exitedAfterDisconnect) cluster.fork(); });

async function replace(old) {
  await once(cluster.fork(), 'listening');
  const gone = once(old, 'exit');
  old.disconnect();
  const patience = setTimeout(() => old.process.kill('SIGKILL'), PATIENCE);
  await gone;
  clearTimeout(patience);
}

async function reload() {
  for (const old of Object.values(cluster.workers)) await replace(old);
  console.log('the reload is done');
}

process.on('SIGUSR2', () => { reloading = reloading.then(reload); });
