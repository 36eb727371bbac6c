'use strict';

const http = require('node:http');
const httpProxy = require('http-proxy');

const proxy = httpProxy.createProxyServer({
  target: process.env.BACKEND,
  agent: new http.Agent({ keepAlive: true }),
  xfwd: true,
});

proxy.on('proxyRes', (proxyRes) => {
  proxyRes.headers['x-worker'] = String(process.pid);
});

proxy.on('error', (error, req, res) => {
  if (res.headersSent) return res.destroy();
  res.writeHead(502, { 'X-Worker': String(process.pid) }).end(error.message);
});

const server = http.createServer((req, res) => proxy.web(req, res));
server.listen(process.env.PORT, '127.0.0.1');
