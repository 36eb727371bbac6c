'use strict';

const path = require('node:path');
const express = require('express');

const app = express();

app.use((req, res, next) => {
  res.set('X-Worker', String(process.pid));
  next();
});
app.use(express.json());
app.use('/static', express.static(path.join(__dirname, 'public')));

app.get('/', (req, res) => {
  res.json({ hello: 'express', pid: process.pid });
});

app.get('/users/:id', async (req, res) => {
  res.json({ id: req.params.id, verbose: req.query.verbose });
});

app.post('/echo', (req, res) => {
  res.status(201).json(req.body);
});

app.get('/stream', (req, res) => {
  let line = 0;
  const more = () => {
    if (line === 200) return res.end();
    res.write(`line ${(line += 1)}\n`);
    setImmediate(more);
  };
  more();
});

// A rejected promise goes to the error handler.
app.get('/error', async () => {
  throw new Error('on purpose');
});

app.use((err, req, res, next) => {
  res.status(err.status ?? 500).json({ error: err.message });
});

app.listen(process.env.PORT, '127.0.0.1');
