// One log file of all workers, written with log4js: a line for each request.
//
// Under phalanx: the workers append to the file themselves. That takes `disableClustering`: without it log4js
// sends all lines to a primary that is log4js too, and loses them when there is none (pm2 has the same trap).

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');
const log4js = require('log4js');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();

log4js.configure({
  appenders: {
    file: {
      type: 'file',
      filename: process.env.LOG_FILE || 'log4js.log',
      layout: { type: 'pattern', pattern: '%d{ISO8601} %p pid=%z %m' },
    },
  },
  categories: { default: { appenders: ['file'], level: 'info' } },
  disableClustering: true,
});
const logger = log4js.getLogger();

if (cluster.isPrimary) {
  logger.info(`primary starts ${workers} workers`);
  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', (worker, code, signal) => {
    logger.warn(`worker ${worker.process.pid} died (${signal || code})`);
    cluster.fork();
  });
} else {
  const server = http.createServer((req, res) => {
    logger.info(`${req.method} ${req.url}`);
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`${req.url} logged, from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1', () => logger.info(`listens on ${port}`));
}
