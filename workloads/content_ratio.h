// How far content compresses, measured with LZ4 page by page as a store of compressed pages does. Host only.
#ifndef QUIRE_WORKLOADS_CONTENT_RATIO_H_
#define QUIRE_WORKLOADS_CONTENT_RATIO_H_

#include <cstdint>

#include "base/units.h"
#include "workloads/content.h"

namespace quire {

// The range and default of --compressibility. A tenth of the pages are zero, so content whose other pages do not
// compress at all still reaches 1.1.
inline constexpr double kLowestRatio = 1;
inline constexpr double kHighestRatio = 10;
inline constexpr double kDefaultRatio = 3;

// Bytes of the first `sample` pages at version 1, divided by their bytes compressed; a page that LZ4 makes no smaller
// counts as 4096. Zero pages count too. `sample` is at least one page.
double MeasureContentRatio(const Content& content, PageCount sample);

// The Content::fresh_pairs with which generated content under `key` comes closest to `ratio`, kLowestRatio to
// kHighestRatio. Takes some milliseconds: it measures.
uint64_t FreshPairsFor(double ratio, uint64_t key);

}  // namespace quire

#endif  // QUIRE_WORKLOADS_CONTENT_RATIO_H_
