// Text and data of files on a page: nothing in them is ever taken for markup.
#ifndef QUIRE_VMM_RESULTS_HTML_H_
#define QUIRE_VMM_RESULTS_HTML_H_

#include <string>

#include "absl/strings/string_view.h"

namespace quire::results {

// `text`, to stand between tags or within the quotes of an attribute. What HTML forbids, control characters and bytes
// that are no UTF-8, becomes U+FFFD, and so do the characters that turn the direction of what follows them.
std::string EscapeHtml(absl::string_view text);

// JSON, to stand in a script element: "</script>" and "<!--" cannot come about, for `<`, `>` and `&`, which occur in
// JSON's strings only, are written as \u003c and so on.
std::string EscapeJsonInHtml(absl::string_view json);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_HTML_H_
