// Preloaded (`node --require`): wherever the application listens, it is on the socket that the process was given
// as its standard input. Node 20 cannot ask for SO_REUSEPORT by itself.
const { Server } = require('net');
const listen = Server.prototype.listen;

Server.prototype.listen = function (...args) {
  const callback = args.findLast((one) => typeof one === 'function');
  return listen.call(this, { fd: 0 }, ...(callback ? [callback] : []));
};
