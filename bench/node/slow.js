// An application that takes 200 ms for an answer, as one does that waits for a database.
const body = JSON.stringify({ pid: process.pid });

require('http')
  .createServer((request, response) => setTimeout(() => response.end(body), 200))
  .listen(process.env.PORT, '127.0.0.1');
