return { redis.call('HGET', SETTINGS, ARGV[3]), redis.call('HGET', SIGNED_IN, ARGV[3]) }
