// One log file of all workers, written with winston: a JSON line for each request.
//
// Under phalanx: every worker appends to the same file by itself, so nothing changes. Without a file it works
// too: what workers write to stdout and stderr goes where phalanx's own does.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');
const winston = require('winston');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();

// Opened for appending in each process: a line is one write, so lines do not mix.
const logger = winston.createLogger({
  defaultMeta: { pid: process.pid },
  format: winston.format.combine(winston.format.timestamp(), winston.format.json()),
  transports: [new winston.transports.File({ filename: process.env.LOG_FILE || 'winston.log' })],
});

if (cluster.isPrimary) {
  logger.info('primary starts', { workers });
  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', (worker, code, signal) => {
    logger.warn('worker died', { worker: worker.process.pid, code, signal });
    cluster.fork();
  });
} else {
  const server = http.createServer((req, res) => {
    logger.info('request', { method: req.method, url: req.url });
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`${req.url} logged, from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1', () => logger.info('worker listens', { port }));
}
