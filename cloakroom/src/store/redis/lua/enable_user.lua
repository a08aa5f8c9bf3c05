return redis.call('SREM', DISABLED, ARGV[4])
