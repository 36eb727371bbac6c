'use strict';
// http2.cjs URL [CA]: makes five requests on one connection of HTTP/2, and prints the answers as JSON.
const fs = require('node:fs');
const http2 = require('node:http2');

const [url, ca] = process.argv.slice(2);
const session = http2.connect(url, ca ? { ca: fs.readFileSync(ca), servername: 'localhost' } : {});
session.on('error', (error) => {
  console.error(String(error));
  process.exit(1);
});
const answers = [];
for (let n = 0; n < 5; n++) {
  const request = session.request({ ':path': '/' });
  let text = '';
  request.setEncoding('utf8');
  request.on('data', (some) => { text += some; });
  request.on('end', () => {
    answers.push(text);
    if (answers.length < 5) return;
    console.log(JSON.stringify({ answers, protocol: session.alpnProtocol }));
    session.close();
  });
}
