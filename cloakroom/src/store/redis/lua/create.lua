local id, place, user, authenticated_at = ARGV[4], ARGV[5], optional(ARGV[6]), tonumber(ARGV[7])
local max, refuse, replaced, note = tonumber(ARGV[8]), ARGV[9] == 'refuse', ARGV[10], ARGV[11]
local retry_of, by, event, seen, expires_at = ARGV[12], optional(ARGV[13]), ARGV[14], ARGV[15], tonumber(ARGV[16])
local why_full, why_disabled, why_meanwhile = ARGV[17], ARGV[18], ARGV[19]
local secret, who, user_from, user_to, remark = ARGV[20], ARGV[21], ARGV[22], ARGV[23], optional(ARGV[24])
local signed_in, fields = ARGV[25], 26
local session, SETTINGS, SIGNED_IN = KEYS[10], KEYS[11], KEYS[12]

-- Ids are fresh: an earlier try of this call was here, and may not have come to its second step.
if redis.call('EXISTS', session) == 1 then
  return { 'there', redis.call('HEXISTS', TODO, id) }
end

local tried = retry_of ~= '' and redis.call('HGET', RETRIES, retry_of) or ''

local function refusal(code, why)
  log('refused', int(NOW), id, who, { b = by, m = why })
  return { 'refused', code }
end

local function living()
  local found = {}
  for _, other in ipairs(redis.call('ZRANGEBYLEX', INDEX, user_from, user_to)) do
    local other_id = id_at(other)
    local acts = redis.call('HEXISTS', SESSION_KEYS .. other_id, 'a') == 1
    if other_id ~= replaced and other_id ~= tried and not acts then
      local state = look(SESSION_KEYS .. other_id, other_id)
      if state.state == 'live' then
        found[#found + 1] = { seen = tonumber(state.seen), order = string.sub(other, 17), id = other_id }
      end
    end
  end
  return found
end

local evicted = {}
if user then
  if redis.call('SISMEMBER', DISABLED, user) == 1 then return refusal('disabled', why_disabled) end
  local ended_before = redis.call('ZSCORE', FENCED, user)
  if ended_before and authenticated_at < tonumber(ended_before) then return refusal('meanwhile', why_meanwhile) end
  if max and redis.call('ZLEXCOUNT', INDEX, user_from, user_to) >= max then
    local all = living()
    if #all >= max then
      if refuse then return refusal('full', why_full) end
      table.sort(all, function(a, b)
        if a.seen ~= b.seen then return a.seen < b.seen end
        return a.order < b.order
      end)
      for n = 1, #all + 1 - math.max(max, 1) do evicted[n] = all[n].id end
    end
  end
end

-- A later sign-in may be known already: nodes have clocks of their own.
local last_sign_in = signed_in ~= '' and redis.call('HEXISTS', SETTINGS, user) == 1 and signed_in
if last_sign_in then
  local known = redis.call('HGET', SIGNED_IN, user)
  local at = known and tonumber(string.match(known, '^%S+'))
  if at and at > tonumber(string.match(signed_in, '^%S+')) then last_sign_in = false end
end

local endings = {}
local function will_end(other, reason)
  redis.call('EXISTS', SESSION_KEYS .. other)
  endings[#endings + 1] = { id = other, reason = reason, by = by, note = false }
end
if replaced ~= '' then will_end(replaced, 'replaced') end
if tried ~= '' then will_end(tried, 'replaced') end
for _, other in ipairs(evicted) do will_end(other, 'signed_in_elsewhere') end

local ended = {}
for _, ending in ipairs(endings) do
  local answer = finish(SESSION_KEYS .. ending.id, ending.id, ending)
  if answer[1] == 'now' then
    answer[1] = ending.id
    ended[#ended + 1] = answer
  end
end
log(event, int(NOW), id, who, { b = by, m = remark })
if last_sign_in then redis.call('HSET', SIGNED_IN, user, last_sign_in) end
redis.call('HSET', session, 'w', who, 'k', secret, 'p', place)
for at = fields, #ARGV, 2 do redis.call('HSET', session, ARGV[at], ARGV[at + 1]) end
redis.call('HSET', SEEN, id, seen)
redis.call('ZADD', INDEX, 0, place)
if expires_at then expire_at(id, expires_at) end
if retry_of ~= '' then
  redis.call('HSET', session, 'e', retry_of)
  redis.call('HSET', RETRIES, retry_of, id)
end
if note ~= '' then redis.call('HSET', TODO, id, note) end
return { 'created', ended }
