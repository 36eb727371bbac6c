'use strict';
// A UDP socket of type TYPE, bound with BIND, the JSON arguments of bind(). Answers with the worker's number.
const cluster = require('node:cluster');
const dgram = require('node:dgram');

const socket = dgram.createSocket(JSON.parse(process.env.TYPE));
socket.on('message', (text, from) => {
  socket.send(`${cluster.worker.id} got ${text}`, from.port, from.address);
});
socket.on('error', ({ code, syscall, address, port }) => {
  process.send({ error: { code, syscall, address, port } });
});
socket.bind(...JSON.parse(process.env.BIND), () => process.send({ address: socket.address() }));
process.on('message', () => socket.close(() => process.send('closed')));
