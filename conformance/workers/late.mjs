// A module that takes its time before it looks for messages.
import { once } from 'node:events';
import net from 'node:net';

process.send('begun');
const server = net.createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
process.on('message', (message) => process.send({ heard: message }));
process.send('ready');
