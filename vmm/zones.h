// `quire zones`: the small objects in the pool, from a run's report.
#ifndef QUIRE_VMM_ZONES_H_
#define QUIRE_VMM_ZONES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// The report in the file `path`, or on standard input for "-". Errors: InvalidArgument.
absl::StatusOr<std::string> ReadReport(const std::string& path);

// The zones of a report (see ZoneReport) as a table, with the columns of FreeBSD's `vmstat -z` and the frames that each
// zone holds. Errors: InvalidArgument if `report` is no report, or its zones have a form that is not known here.
absl::StatusOr<std::string> ZonesTable(absl::string_view report);

}  // namespace quire

#endif  // QUIRE_VMM_ZONES_H_
