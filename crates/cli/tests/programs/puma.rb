# A Rack application in Puma's own configuration: puma -C puma.rb -b tcp://127.0.0.1:PORT
threads 1, 4
app do |_env|
  body = %({"pid":#{Process.pid},"slot":#{ENV.fetch('NODE_APP_INSTANCE', '0')}})
  [200, { 'Content-Type' => 'application/json' }, [body]]
end
