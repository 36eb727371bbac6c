'use strict';
// Sends a handle of the KIND it is asked for to the primary, and tells where its clients find it.
const dgram = require('node:dgram');
const net = require('node:net');

const to = (place) => (error) => process.send({ sent: error, ...place });

// Whether it is still open here.
const told = (socket) => (error) => to({ open: socket._handle !== null })(error);

const kinds = {
  // A connection to somebody else.
  tcp: ({ port }) => {
    const socket = net.connect(port, '127.0.0.1', () => process.send('tcp', socket, told(socket)));
  },
  native: ({ port }) => {
    const socket = net.connect(port, '127.0.0.1', () => process.send('native', socket._handle, to()));
  },
  unix: ({ path }) => {
    const socket = net.connect(path, () => process.send('unix', socket, told(socket)));
  },
  kept: ({ port }) => {
    const socket = net.connect(port, '127.0.0.1', () => {
      process.send('kept', socket, { keepOpen: true }, told(socket));
    });
  },
  'tcp-server': () => {
    const server = net.createServer().listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
      const { port } = server.address();
      process.send('tcp-server', server, (error) => server.close(() => to({ port })(error)));
    });
  },
  'unix-server': ({ path }) => {
    const server = net.createServer().listen({ path, exclusive: true }, () => {
      process.send('unix-server', server, to({ path }));
    });
  },
  udp4: () => {
    const socket = dgram.createSocket('udp4');
    socket.bind({ port: 0, address: '127.0.0.1', exclusive: true }, () => {
      const { port } = socket.address();
      process.send('udp4', socket, (error) => socket.close(() => to({ port })(error)));
    });
  },
  udp6: () => {
    const socket = dgram.createSocket('udp6');
    socket.bind({ port: 0, address: '::1', exclusive: true }, () => {
      const { port } = socket.address();
      process.send('udp6', socket, (error) => socket.close(() => to({ port })(error)));
    });
  },
};

process.on('message', (order) => kinds[order.kind](order));
process.send('ready');
