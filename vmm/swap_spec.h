// Where cold memory goes, as the user says it: --swap=file:PATH[:SIZE] or nbd:URI, or several of them.
#ifndef QUIRE_VMM_SWAP_SPEC_H_
#define QUIRE_VMM_SWAP_SPEC_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "guest/swap/backing_store.h"

namespace quire {

struct SwapSpec {
  enum class Kind : uint8_t { kFile, kNbd };

  Kind kind = Kind::kFile;
  std::string where = {};              // the path, or the URI
  std::optional<ByteCount> size = {};  // of a file; without one, what it has or as much as the guests' memory

  friend bool operator==(const SwapSpec&, const SwapSpec&) = default;
};

// Parses a comma-separated list. A comma begins another store only before "file:" or "nbd:", a colon a size only before
// something that is one, so that paths and URIs may contain both. Errors: InvalidArgument, a sentence without a full
// stop.
absl::StatusOr<std::vector<SwapSpec>> ParseSwap(absl::string_view text);

// Opens the stores in their order. `size` is that of a file for which neither the spec nor the file itself says one;
// `retry_for`: how long a lost NBD server is waited for. May start threads. Errors: those of the stores.
absl::StatusOr<std::vector<std::unique_ptr<BackingStore>>> OpenSwap(const std::vector<SwapSpec>& specs, ByteCount size,
                                                                    absl::Duration retry_for);

}  // namespace quire

#endif  // QUIRE_VMM_SWAP_SPEC_H_
