// What of HTTP the control API is made of. Who serves it, and who asks, is elsewhere (server.h, client.h).
#ifndef QUIRE_VMM_CONTROL_HTTP_H_
#define QUIRE_VMM_CONTROL_HTTP_H_

#include <cstddef>
#include <string>

namespace quire {

// The longest body of a request; longer ones are refused.
inline constexpr size_t kLongestBody = 16 << 10;

struct HttpRequest {
  std::string method;  // "GET"
  std::string target;  // path and query, as they came: "/v1/explain?guest=0&gfn=4711"
  std::string body = {};

  friend bool operator==(const HttpRequest&, const HttpRequest&) = default;
};

inline constexpr char kJsonType[] = "application/json";

struct HttpAnswer {
  int status = 200;
  std::string content_type = kJsonType;
  std::string body = {};
  std::string allow = {};  // of 405: the methods that the path has
};

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_HTTP_H_
