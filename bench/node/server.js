// An empty handler, but for the name of the worker, by which the load is counted.
const body = JSON.stringify({ pid: process.pid });

require('http')
  .createServer((request, response) => response.end(body))
  .listen(process.env.PORT, '127.0.0.1');
