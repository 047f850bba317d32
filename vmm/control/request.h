// What is asked of a run over its control socket, by HTTP requests (docs/api.md).
//
//     GET   /metrics                            figures for Prometheus
//     GET   /v1/explain?guest=guest-0&gfn=4711  why a page is where it is
//     GET   /v1/guests                          all guests
//     GET   /v1/guests/0                        one of them; ?statistics=fresh: its balloon's driver is asked first
//     GET   /v1/guests/0/domain-xml             the same as a domain of libvirt's
//     PATCH /v1/guests/0                        {"balloon_bytes": n, "pool_limit_bytes": n, "swap_limit_bytes": n}
//     GET   /v1/policies                        what may be shared and huge
//     PATCH /v1/policies                        {"merge": "on", "huge": "always"}
//     POST  /v1/poison                          {"guest": "0", "gfn": 4711}, or {"frame": 1303}
//     GET   /v1/report                          the run's report, as it is now
#ifndef QUIRE_VMM_CONTROL_REQUEST_H_
#define QUIRE_VMM_CONTROL_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/control/http.h"
#include "vmm/options.h"

namespace quire {

struct ControlRequest {
  enum class Command : uint8_t {
    kExplain,
    kPoison,
    kReport,
    kGuests,
    kGuest,
    kGuestXml,
    kChangeGuest,
    kPolicies,
    kChangePolicies,
    kMetrics,
  } command = Command::kExplain;
  std::string guest = {};  // a number or a name; words of letters, digits, '-', '_' and '.'
  // Of kExplain and kPoison:
  std::optional<uint64_t> gfn = {};
  std::optional<uint64_t> frame = {};  // instead of a guest's page
  // Of kGuest:
  bool fresh_statistics = false;
  // Of kChangeGuest; what is not there stays:
  std::optional<uint64_t> balloon_bytes = {};
  std::optional<uint64_t> pool_limit_bytes = {};  // 0: no limit
  std::optional<uint64_t> swap_limit_bytes = {};
  // Of kChangePolicies:
  std::optional<Merge> merge = {};
  std::optional<Huge> huge = {};

  friend bool operator==(const ControlRequest&, const ControlRequest&) = default;
};

// All there is, in the order of the paths. "{guest}" stands for a guest's number or name.
struct ControlRoute {
  absl::string_view method;
  absl::string_view path;
  ControlRequest::Command command;
};
absl::Span<const ControlRoute> ControlRoutes();
// The methods that a path has, with commas between them; empty: there is no such path. `target` may have a query.
std::string AllowedMethods(absl::string_view target);

// The request may be any bytes. Errors, sentences without a full stop:
//   InvalidArgument  something in it is wrong
//   NotFound         there is no such path
//   Unimplemented    the path does not have this method
absl::StatusOr<ControlRequest> ParseRequest(const HttpRequest& request);

// What ParseRequest reads back.
HttpRequest FormatRequest(const ControlRequest& request);

// Whether ParseRequest would take it for a guest.
bool IsGuestName(absl::string_view name);

}  // namespace quire

#endif  // QUIRE_VMM_CONTROL_REQUEST_H_
