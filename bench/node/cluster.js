// An application under Node's own primary: `WORKERS=2 node cluster.js app.js`; the policy is Node's own
// variable NODE_CLUSTER_SCHED_POLICY, `rr` or `none`.
const cluster = require('cluster');

cluster.setupPrimary({ exec: require('path').resolve(process.argv[2]) });
for (let n = 0; n < Number(process.env.WORKERS); n++) cluster.fork();
