-- Commands that read, at one moment: each with its key, how many arguments it has, and those. A range of the index, the
-- second key, is answered with the heads of its sessions.
local call, answers, at = redis.call, {}, 2
while at < #ARGV do
  local command, key, last = ARGV[at + 1], KEYS[tonumber(ARGV[at + 2])], at + 3 + tonumber(ARGV[at + 3])
  local found = call(command, key, unpack(ARGV, at + 4, last))
  for n, place in ipairs(key == KEYS[2] and found or {}) do
    local id = string.sub(place, 43)
    found[n] = { place, call('HGET', KEYS[1], id), call('HMGET', ARGV[2] .. id, 'h', 'v', 'w', 'e') }
  end
  answers[#answers + 1], at = found, last
end
return answers
