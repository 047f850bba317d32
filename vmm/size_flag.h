// Sizes as flags, for Abseil, which finds these by their argument's namespace.
#ifndef QUIRE_VMM_SIZE_FLAG_H_
#define QUIRE_VMM_SIZE_FLAG_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "base/units.h"
#include "vmm/text.h"

namespace quire {

inline bool AbslParseFlag(absl::string_view text, ByteCount* size, std::string*) {
  const std::optional<ByteCount> parsed = ParseSize(text);
  *size = parsed.value_or(*size);
  return parsed.has_value();
}
inline std::string AbslUnparseFlag(ByteCount size) { return SizeToFlag(size); }

}  // namespace quire

#endif  // QUIRE_VMM_SIZE_FLAG_H_
