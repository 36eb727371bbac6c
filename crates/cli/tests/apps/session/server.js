'use strict';

const express = require('express');
const session = require('express-session');
const { RedisStore } = require('connect-redis');
const { createClient } = require('redis');

async function main() {
  const client = createClient({ url: process.env.REDIS_URL });
  client.on('error', (error) => console.error(`redis: ${error.message}`));
  await client.connect();

  const app = express();
  app.use((req, res, next) => {
    res.set('X-Worker', String(process.pid));
    next();
  });
  app.use(
    session({
      store: new RedisStore({ client }),
      secret: 'not a secret',
      resave: false,
      saveUninitialized: false,
    }),
  );

  app.get('/', (req, res) => {
    res.json({ hello: 'session', pid: process.pid });
  });

  app.post('/login', express.urlencoded(), (req, res, next) => {
    req.session.regenerate((error) => {
      if (error) return next(error);
      req.session.user = req.body.user;
      req.session.visits = 0;
      res.json({ user: req.session.user });
    });
  });

  app.get('/me', (req, res) => {
    if (!req.session.user) return res.status(401).json({ error: 'who are you?' });
    req.session.visits += 1;
    res.json({ user: req.session.user, visits: req.session.visits });
  });

  app.post('/logout', (req, res, next) => {
    req.session.destroy((error) => (error ? next(error) : res.json({})));
  });

  app.listen(process.env.PORT, '127.0.0.1');
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
