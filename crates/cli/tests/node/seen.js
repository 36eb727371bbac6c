// Answers with everything about itself that a preload could have changed.
const http = require('http');
const cluster = require('cluster');

http
  .createServer((request, response) => {
    const server = request.socket.server;
    response.end(
      JSON.stringify({
        pid: process.pid,
        slot: Number(process.env.NODE_APP_INSTANCE),
        argv: process.argv.slice(2),
        execArgv: process.execArgv,
        modules: Object.keys(require.cache).filter((file) => file.includes('preload')),
        serverKeys: Object.keys(server).filter((key) => ['emit', 'closeIdleConnections'].includes(key)),
        clusterKeys: Object.keys(cluster).filter((key) => key === '_getServer').length,
        workerKeys: Object.keys(cluster.worker).includes('disconnect'),
        listeners: server.listenerCount('close') + server.listenerCount('connection') + server.listenerCount('upgrade'),
        globals: Object.keys(globalThis).sort(),
        resources: process.getActiveResourcesInfo().sort().filter((name) => name === 'Timeout'),
        node: Object.keys(process.env).filter((name) => name.startsWith('NODE_') && name !== 'NODE_COMPILE_CACHE').sort(),
      }),
    );
  })
  .listen(process.env.PORT, '127.0.0.1');
