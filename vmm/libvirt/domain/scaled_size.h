// Sizes as libvirt's XML has them: a number, and a unit beside it.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_SCALED_SIZE_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_SCALED_SIZE_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"

namespace quire {

// `number` is whole, with spaces around it perhaps. `unit` is, in either case: "b", "byte" or "bytes"; a power of 1024,
// "k" or "KiB" to "e" or "EiB"; a power of 1000, "KB" to "EB"; or empty: KiB. The result is rounded up to whole KiB, as
// libvirt does: it counts in them.
// Source: libvirt, docs/formatdomain.rst "Memory Allocation"; virScaleInteger.
// Errors: InvalidArgument, a sentence's middle: "5 parsecs has a unit that ...".
absl::StatusOr<ByteCount> ParseScaledSize(absl::string_view number, absl::string_view unit);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_SCALED_SIZE_H_
