'use strict';
// Uses the handles that it is sent, so that their clients can tell that they work here.
const dgram = require('node:dgram');
const net = require('node:net');

process.on('message', (message, handle) => {
  if (handle === undefined) return process.send({ plain: message });
  if (handle instanceof net.Socket) {
    handle.end('worker has it\n');
  } else if (handle instanceof net.Server) {
    handle.on('connection', (socket) => socket.end('worker accepts\n'));
  } else if (handle instanceof dgram.Socket) {
    handle.on('message', (text, from) => handle.send(`worker got ${text}`, from.port, from.address));
  }
  process.send({ message, type: handle.constructor.name });
});
process.send('ready');
