'use strict';

const http = require('node:http');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/cluster-adapter');

const server = http.createServer((req, res) => {
  res.setHeader('X-Worker', String(process.pid));
  res.end(JSON.stringify({ hello: 'socket.io', pid: process.pid }));
});

const io = new Server(server, { adapter: createAdapter() });

// An answer that the other workers give to the one that asks.
io.on('who', (reply) => reply(process.pid));

io.on('connection', (socket) => {
  socket.on('ask', (text, reply) => {
    reply({ text: text.toUpperCase(), pid: process.pid });
  });
  // Reaches the clients of all workers, the sender's own included.
  socket.on('say', (message) => {
    io.emit('said', { ...message, pid: process.pid });
  });
  // The clients and the workers of the whole cluster, as this worker sees them. A client that came
  // again has one more session until the old one times out; its address is the same.
  socket.on('count', async (reply) => {
    try {
      const sockets = await io.fetchSockets();
      const addresses = new Set(sockets.map((other) => other.handshake.address));
      const others = await io.serverSideEmitWithAck('who');
      reply({ clients: addresses.size, workers: [process.pid, ...others] });
    } catch (error) {
      reply({ error: error.message });
    }
  });
});

server.listen(process.env.PORT, '127.0.0.1');
