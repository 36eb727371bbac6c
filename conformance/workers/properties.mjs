// The same from a module: default and named imports are one thing.
import cluster, { isPrimary, isWorker, worker } from 'node:cluster';

process.send({
  isWorker,
  isPrimary,
  id: worker.id,
  same: cluster.worker === worker,
  fork: typeof cluster.fork,
});
