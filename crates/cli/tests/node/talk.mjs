// Workers that tell all others who they are; an answer lists whom this one has heard of.
import http from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';

const slot = Number(process.env.NODE_APP_INSTANCE);
process.send({ phalanx: 'broadcast', message: { hello: slot } });
// Much that is imported takes its time.
await pause(300);
const heard = new Set();
process.on('message', (message) => {
  if (heard.has(message.hello)) return;
  heard.add(message.hello);
  process.send({ phalanx: 'broadcast', message: { hello: slot } });
});
http
  .createServer((request, response) => {
    response.end(JSON.stringify({ pid: process.pid, slot, heard: [...heard].sort() }));
  })
  .listen(process.env.PORT, '127.0.0.1');
