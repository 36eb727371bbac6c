'use strict';
// Closes its server as soon as it is told that it listens: nobody is told that it did.
const server = require('node:net').createServer();
server.listen(Number(process.env.PORT), '127.0.0.1', () => {
  server.close(() => process.send('closed'));
});
