#include "vmm/control/request.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"

namespace quire {
namespace {

using Json = nlohmann::json;
using Command = ControlRequest::Command;

constexpr ControlRoute kRoutes[] = {
    {"GET", "/metrics", Command::kMetrics},
    {"GET", "/v1/explain", Command::kExplain},
    {"GET", "/v1/guests", Command::kGuests},
    {"GET", "/v1/guests/{guest}", Command::kGuest},
    {"PATCH", "/v1/guests/{guest}", Command::kChangeGuest},
    {"GET", "/v1/guests/{guest}/domain-xml", Command::kGuestXml},
    {"GET", "/v1/policies", Command::kPolicies},
    {"PATCH", "/v1/policies", Command::kChangePolicies},
    {"POST", "/v1/poison", Command::kPoison},
    {"GET", "/v1/report", Command::kReport},
};
constexpr absl::string_view kGuestInPath = "{guest}";

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// What came may be anything; so much of it is shown, in ASCII.
std::string Shown(absl::string_view word) { return absl::StrCat("\"", absl::CHexEscape(word.substr(0, 40)), "\""); }

// "%2F" and the like stand for a byte each.
absl::StatusOr<std::string> Decode(absl::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    const absl::string_view digits = text.substr(i + 1, 2);
    if (digits.size() < 2 || !absl::ascii_isxdigit(static_cast<unsigned char>(digits[0])) ||
        !absl::ascii_isxdigit(static_cast<unsigned char>(digits[1]))) {
      return Bad(Shown(text), " has a % without two hexadecimal digits after it: write %25 for the sign itself");
    }
    decoded += absl::HexStringToBytes(digits);
    i += 2;
  }
  return decoded;
}

absl::Status SetGuest(absl::string_view value, ControlRequest& request) {
  if (!IsGuestName(value)) return Bad(Shown(value), " is no guest: write its number or name, such as guest-0");
  request.guest = std::string(value);
  return absl::OkStatus();
}

// --- The path.

absl::string_view PathOf(absl::string_view target) { return target.substr(0, target.find('?')); }

// What stands for a guest in the path, empty if nothing does; nullopt: the path is another one.
std::optional<absl::string_view> MatchPath(absl::string_view route, absl::string_view path) {
  const size_t place = route.find(kGuestInPath);
  if (place == absl::string_view::npos) return route == path ? std::optional<absl::string_view>("") : std::nullopt;
  absl::string_view guest = path;
  if (!absl::ConsumePrefix(&guest, route.substr(0, place))) return std::nullopt;
  if (!absl::ConsumeSuffix(&guest, route.substr(place + kGuestInPath.size()))) return std::nullopt;
  return guest.empty() || guest.find('/') != absl::string_view::npos ? std::nullopt : std::optional(guest);
}

std::string Paths() {
  std::vector<absl::string_view> paths;
  for (const ControlRoute& route : kRoutes) {
    if (paths.empty() || paths.back() != route.path) paths.push_back(route.path);
  }
  return absl::StrCat(absl::StrJoin(paths.begin(), paths.end() - 1, ", "), " and ", paths.back());
}

// --- The query.

absl::Status SetNumber(absl::string_view key, absl::string_view value, std::optional<uint64_t>& number) {
  uint64_t parsed;
  if (!absl::SimpleAtoi(value, &parsed)) {
    return Bad(key, "=", Shown(value), " is not a number: write a whole one such as 4711");
  }
  number = parsed;
  return absl::OkStatus();
}

absl::Status SetFromQuery(absl::string_view key, absl::string_view value, ControlRequest& request) {
  if (request.command == Command::kExplain) {
    if (key == "gfn") return SetNumber(key, value, request.gfn);
    if (key == "guest") return SetGuest(value, request);
    return Bad(Shown(key), " is not a key of this query: guest and gfn are");
  }
  if (request.command != Command::kGuest) return Bad(Shown(key), " is not a key of this query, which has none");
  if (key != "statistics") return Bad(Shown(key), " is not a key of this query: statistics is");
  if (value != "fresh") return Bad("statistics=", Shown(value), " means nothing: write statistics=fresh");
  request.fresh_statistics = true;
  return absl::OkStatus();
}

absl::Status ParseQuery(absl::string_view target, ControlRequest& request) {
  const size_t begin = target.find('?');
  if (begin == absl::string_view::npos) return absl::OkStatus();
  std::vector<std::string> given;
  for (const absl::string_view word : absl::StrSplit(target.substr(begin + 1), '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(word, absl::MaxSplits('=', 1));
    const absl::StatusOr<std::string> key = Decode(parts.first), value = Decode(parts.second);
    if (!key.ok()) return key.status();
    if (!value.ok()) return value.status();
    if (std::find(given.begin(), given.end(), *key) != given.end()) return Bad(Shown(*key), " is given twice");
    if (absl::Status set = SetFromQuery(*key, *value, request); !set.ok()) return set;
    given.push_back(*key);
  }
  return absl::OkStatus();
}

// --- The body.

absl::Status SetNumber(absl::string_view key, const Json& value, std::optional<uint64_t>& number) {
  if (!value.is_number_unsigned()) {
    return Bad("\"", key, "\" is not a number from 0 on: write a whole one such as 4711, without quotes");
  }
  number = value.get<uint64_t>();
  return absl::OkStatus();
}

template <class Choice>
absl::Status SetChoice(absl::string_view key, const Json& value, std::initializer_list<Choice> choices,
                       std::optional<Choice>& chosen) {
  std::vector<std::string> names;
  for (const Choice choice : choices) {
    if (value.is_string() && value.get_ref<const std::string&>() == Name(choice)) chosen = choice;
    names.push_back(absl::StrCat("\"", Name(choice), "\""));
  }
  if (chosen.has_value()) return absl::OkStatus();
  return Bad("\"", key, "\" is none of its values: write ", absl::StrJoin(names, " or "));
}

absl::Status SetChange(const std::string& key, const Json& value, ControlRequest& request) {
  if (key == "balloon_bytes") return SetNumber(key, value, request.balloon_bytes);
  if (key == "pool_limit_bytes") return SetNumber(key, value, request.pool_limit_bytes);
  if (key == "swap_limit_bytes") return SetNumber(key, value, request.swap_limit_bytes);
  return Bad(Shown(key), " is nothing to change of a guest: balloon_bytes, pool_limit_bytes and swap_limit_bytes are");
}

absl::Status SetPolicy(const std::string& key, const Json& value, ControlRequest& request) {
  if (key == "merge") return SetChoice(key, value, {Merge::kOn, Merge::kOff}, request.merge);
  if (key == "huge") return SetChoice(key, value, {Huge::kAlways, Huge::kAdvise, Huge::kNever}, request.huge);
  return Bad(Shown(key), " is no policy: merge and huge are");
}

absl::Status SetVictim(const std::string& key, const Json& value, ControlRequest& request) {
  if (key == "gfn") return SetNumber(key, value, request.gfn);
  if (key == "frame") return SetNumber(key, value, request.frame);
  if (key != "guest") return Bad(Shown(key), " is nothing that fails: guest, gfn and frame are");
  if (value.is_number_unsigned()) return SetGuest(absl::StrCat(value.get<uint64_t>()), request);
  if (value.is_string()) return SetGuest(value.get_ref<const std::string&>(), request);
  return Bad("\"guest\" is no guest: write its number, or its name in quotes");
}

absl::Status ParseBody(const std::string& body, ControlRequest& request) {
  if (body.size() > kLongestBody) return Bad("the body has more than ", kLongestBody, " bytes");
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Bad("the body is no JSON object: write one such as {\"gfn\": 4711}");
  for (const auto& [key, value] : json.items()) {
    absl::Status set;
    if (request.command == Command::kChangeGuest) set = SetChange(key, value, request);
    if (request.command == Command::kChangePolicies) set = SetPolicy(key, value, request);
    if (request.command == Command::kPoison) set = SetVictim(key, value, request);
    if (!set.ok()) return set;
  }
  if (!json.empty()) return absl::OkStatus();
  if (request.command == Command::kChangePolicies) return Bad("nothing is to change: write merge or huge");
  if (request.command != Command::kChangeGuest) return absl::OkStatus();
  return Bad("nothing is to change: write balloon_bytes, pool_limit_bytes or swap_limit_bytes");
}

bool HasBody(Command command) {
  return command == Command::kChangeGuest || command == Command::kChangePolicies || command == Command::kPoison;
}

absl::Status CheckComplete(const ControlRequest& request) {
  const bool page = !request.guest.empty() && request.gfn.has_value();
  const bool part_of_page = !request.guest.empty() || request.gfn.has_value();
  if (request.command == Command::kExplain && !page) {
    return Bad("explain needs a guest and a page: write /v1/explain?guest=0&gfn=4711");
  }
  if (request.command != Command::kPoison) return absl::OkStatus();
  if (request.frame.has_value() ? !part_of_page : page) return absl::OkStatus();
  return Bad("poison needs a page or a frame: write {\"guest\": 0, \"gfn\": 4711}, or {\"frame\": 1303}");
}

}  // namespace

absl::Span<const ControlRoute> ControlRoutes() { return kRoutes; }

std::string AllowedMethods(absl::string_view target) {
  std::vector<absl::string_view> methods;
  for (const ControlRoute& route : kRoutes) {
    if (!MatchPath(route.path, PathOf(target)).has_value()) continue;
    methods.push_back(route.method);
    if (route.method == "GET") methods.push_back("HEAD");
  }
  return absl::StrJoin(methods, ", ");
}

bool IsGuestName(absl::string_view name) {
  constexpr size_t kLongest = 64;
  return !name.empty() && name.size() <= kLongest && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}

absl::StatusOr<ControlRequest> ParseRequest(const HttpRequest& http) {
  const absl::string_view path = PathOf(http.target);
  const absl::string_view method = http.method == "HEAD" ? "GET" : absl::string_view(http.method);
  const std::string allowed = AllowedMethods(path);
  if (allowed.empty()) return absl::NotFoundError(absl::StrCat("there is no ", Shown(path), ": ", Paths(), " are"));
  for (const ControlRoute& route : kRoutes) {
    const std::optional<absl::string_view> guest = MatchPath(route.path, path);
    if (!guest.has_value() || route.method != method) continue;
    ControlRequest request{.command = route.command};
    if (!guest->empty()) {
      const absl::StatusOr<std::string> name = Decode(*guest);
      if (!name.ok()) return name.status();
      if (absl::Status set = SetGuest(*name, request); !set.ok()) return set;
    }
    if (absl::Status status = ParseQuery(http.target, request); !status.ok()) return status;
    if (HasBody(route.command)) {
      if (absl::Status status = ParseBody(http.body, request); !status.ok()) return status;
    }
    if (absl::Status complete = CheckComplete(request); !complete.ok()) return complete;
    return request;
  }
  return absl::UnimplementedError(absl::StrCat(Shown(path), " has no ", Shown(http.method), ": ", allowed, " will do"));
}

HttpRequest FormatRequest(const ControlRequest& request) {
  const auto route = std::find_if(std::begin(kRoutes), std::end(kRoutes),
                                  [&](const ControlRoute& r) { return r.command == request.command; });
  HttpRequest http{.method = std::string(route->method), .target = std::string(route->path)};
  const size_t place = http.target.find(kGuestInPath);
  if (place != std::string::npos) http.target.replace(place, kGuestInPath.size(), request.guest);
  if (request.fresh_statistics) http.target += "?statistics=fresh";
  if (request.command == Command::kExplain) {
    absl::StrAppend(&http.target, "?guest=", request.guest, "&gfn=", request.gfn.value_or(0));
  }
  if (!HasBody(request.command)) return http;
  Json body = Json::object();
  if (request.command == Command::kPoison && !request.guest.empty()) body["guest"] = request.guest;
  if (request.gfn.has_value()) body["gfn"] = *request.gfn;
  if (request.frame.has_value()) body["frame"] = *request.frame;
  if (request.balloon_bytes.has_value()) body["balloon_bytes"] = *request.balloon_bytes;
  if (request.pool_limit_bytes.has_value()) body["pool_limit_bytes"] = *request.pool_limit_bytes;
  if (request.swap_limit_bytes.has_value()) body["swap_limit_bytes"] = *request.swap_limit_bytes;
  if (request.merge.has_value()) body["merge"] = Name(*request.merge);
  if (request.huge.has_value()) body["huge"] = Name(*request.huge);
  http.body = body.dump();
  return http;
}

}  // namespace quire
