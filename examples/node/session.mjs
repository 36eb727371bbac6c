// Sessions that every worker knows: express-session with its store in Redis (`REDIS_URL`).
//
// Under phalanx: the same. No sticky connections are needed, since no worker keeps a session to itself; and a
// session outlives the worker that began it.

import cluster from 'node:cluster';
import os from 'node:os';
import { RedisStore } from 'connect-redis';
import express from 'express';
import session from 'express-session';
import { createClient } from 'redis';

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  const client = createClient({ url: process.env.REDIS_URL || 'redis://127.0.0.1:6379' });
  client.on('error', (error) => console.error(`redis: ${error.message}`));
  await client.connect();

  const app = express();
  app.use(
    session({
      store: new RedisStore({ client }),
      secret: process.env.SESSION_SECRET || 'change me',
      resave: false,
      saveUninitialized: false,
    }),
  );
  app.get('/', (req, res) => {
    req.session.views = (req.session.views || 0) + 1;
    res.type('text').send(`view ${req.session.views} from ${process.pid}\n`);
  });

  const server = app.listen(port, '127.0.0.1');
  // The connection to Redis would keep a worker alive that is told to leave.
  server.on('close', () => client.close());
}
