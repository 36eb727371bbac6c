// The same as server.js, with Express.
const body = { pid: process.pid };
const app = require('express')();

app.get('/', (request, response) => response.json(body));
app.listen(process.env.PORT, '127.0.0.1');
