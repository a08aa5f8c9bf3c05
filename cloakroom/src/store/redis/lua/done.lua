return redis.call('HDEL', TODO, ARGV[4])
