// What a page needs to look as it does and to draw its charts: files of assets/ and of uPlot.
#ifndef QUIRE_VMM_RESULTS_PAGE_ASSETS_H_
#define QUIRE_VMM_RESULTS_PAGE_ASSETS_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

absl::Span<const std::byte> PageStyle();
absl::Span<const std::byte> PageScript();
absl::Span<const std::byte> UplotStyle();
absl::Span<const std::byte> UplotScript();
absl::Span<const std::byte> UplotLicence();

}  // namespace quire

#endif  // QUIRE_VMM_RESULTS_PAGE_ASSETS_H_
