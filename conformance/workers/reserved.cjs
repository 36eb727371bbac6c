'use strict';
// Commands that begin with NODE_ are Node's own: nobody gets them as messages. Others are messages.
for (const cmd of ['NODE_', 'XNODE_CLUSTER', 'NODE_WHATEVER', 'node_cluster', 7]) process.send({ cmd });
process.send({ cmd: 'NODE_CLUSTER', act: 'whatever' });
process.send({ cmd: 'NODE_CLUSTER', ack: 4711, accepted: true });
process.send('end');
