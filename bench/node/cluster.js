// The same server under Node's own primary: `node cluster.js POLICY`, 1 = none, 2 = round-robin.
const cluster = require('cluster');

if (cluster.isPrimary) {
  cluster.schedulingPolicy = Number(process.argv[2]);
  for (let n = 0; n < 2; n++) cluster.fork();
} else {
  require('./server.js');
}
