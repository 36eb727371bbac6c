'use strict';
// Takes one connection at a time, and counts how often it was offered one.
const server = require('node:net').createServer((socket) => {
  socket.on('error', () => {});
  socket.write('taken\n');
  socket.resume();
});
server.maxConnections = 1;
let offers = 0;
process.on('internalMessage', ({ act }) => { offers += act === 'newconn'; });
process.on('message', () => process.send({ offers }));
server.listen(Number(process.env.PORT), '127.0.0.1');
