local answers = {}
for n = 0, (#ARGV - 3) / 3 - 1 do
  local id, seen_at, grace_ends = ARGV[4 + 3 * n], tonumber(ARGV[5 + 3 * n]), tonumber(ARGV[6 + 3 * n])
  local session = KEYS[10 + n]
  local found = look(session, id)
  answers[n + 1] = found.state == 'live' and 1 or 0
  if found.state == 'live' then
    if seen_at > tonumber(found.seen) then
      redis.call('HSET', SEEN, id, int(seen_at))
      if found.idle then expire_at(id, deadline(seen_at, found.idle, found.ends)) end
    end
    if grace_ends then
      local predecessors = redis.call('HGET', session, 'g')
      local confirmed = confirm(predecessors, grace_ends)
      if confirmed ~= predecessors then redis.call('HSET', session, 'g', confirmed) end
    end
  end
end
return answers
