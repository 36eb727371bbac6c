// Serves HTTP/1 with WebSockets on PORT, HTTP/2 and HTTPS on the ports that are its arguments; then a directory with
// key and certificate.
const crypto = require('crypto');
const http = require('http');
const fs = require('fs');
const http2 = require('http2');
const https = require('https');

const port = Number(process.env.PORT);
const answer = JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) });
const server = http.createServer((request, response) => response.end(answer));
server.on('upgrade', (request, socket) => {
  const magic = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const accept = crypto.createHash('sha1').update(request.headers['sec-websocket-key'] + magic).digest('base64');
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
  // Ends the connection when the closing handshake is there.
  socket.on('data', () => socket.end());
});
const [http2Port, httpsPort, directory] = process.argv.slice(2);
const [key, cert] = ['key', 'cert'].map((name) => fs.readFileSync(`${directory}/${name}.pem`));
https.createServer({ key, cert }, (request, response) => response.end(answer)).listen(Number(httpsPort), '127.0.0.1');
http2
  .createServer((request, response) => {
    if (request.url !== '/slow') return response.end(answer);
    response.write('begin ');
    setTimeout(() => response.end('end'), 1500);
  })
  .listen(Number(http2Port), '127.0.0.1', () => server.listen(port, '127.0.0.1'));
