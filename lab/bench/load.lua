-- What wrk sends: `wrk … -s load.lua URL -- OPERATION ROWS PREFIX`. OPERATION may also be a path.
local operation, rows, prefix, sent

function init(arguments)
  operation, rows, prefix, sent = arguments[1], tonumber(arguments[2]), arguments[3], 0
  math.randomseed(1)
  wrk.headers["Authorization"] = "Bearer sesame"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  sent = sent + 1
  if operation:sub(1, 1) == "/" then
    return wrk.format("GET", operation)
  elseif operation:sub(1, 6) == "count " then
    wrk.headers["Prefer"] = "count=exact"
    return wrk.format("GET", operation:sub(7))
  elseif operation == "batch" then
    local item = '{"name": "Difference engine", "description": "Brass, 8,000 parts."}'
    return wrk.format("POST", "/items/batch", nil, "[" .. string.rep(item .. ",", 99) .. item .. "]")
  elseif operation == "GET one" then
    return wrk.format("GET", "/users/" .. math.random(rows))
  elseif operation == "list of 50" then
    return wrk.format("GET", "/users?limit=50&offset=" .. math.random(0, 50))
  elseif operation == "POST" then
    local user = '{"email": "%s.%d@example.com", "name": "Ada Lovelace", "bio": "Number %d"}'
    return wrk.format("POST", "/users", nil, string.format(user, prefix, sent, sent))
  end
  local change = string.format('{"name": "%s %d"}', prefix, sent)
  return wrk.format("PATCH", "/users/" .. math.random(rows), nil, change)
end

-- One line of JSON; times in microseconds.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
