local found = look(SESSION, ID)
if found.state ~= 'live' then return gone(SESSION, found) end
return record('live', SESSION, found.seen)
