'use strict';
// Says what node:cluster looks like in a worker.
const cluster = require('node:cluster');

const { worker } = cluster;
process.send({
  isWorker: cluster.isWorker,
  isPrimary: cluster.isPrimary,
  isMaster: cluster.isMaster,
  id: worker.id,
  process: worker.process === process,
  connected: [worker.isConnected(), process.connected],
  dead: worker.isDead(),
  exitedAfterDisconnect: String(worker.exitedAfterDisconnect),
  isAWorker: worker instanceof cluster.Worker,
  emitter: typeof cluster.on,
  absent: ['fork', 'disconnect', 'setupPrimary', 'settings', 'workers', 'schedulingPolicy'].filter(
    (name) => !(name in cluster),
  ),
  internal: Object.keys(process.env).filter((name) =>
    ['NODE_UNIQUE_ID', 'NODE_CHANNEL_FD', 'NODE_CHANNEL_SERIALIZATION_MODE'].includes(name),
  ),
  args: process.argv.slice(2),
  cwd: process.cwd(),
  colour: process.env.COLOUR,
});
