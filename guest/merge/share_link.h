#ifndef QUIRE_GUEST_MERGE_SHARE_LINK_H_
#define QUIRE_GUEST_MERGE_SHARE_LINK_H_

#include "base/units.h"

namespace quire {

// Names the place of a page in a chain of those that share something (SharerChains).
struct ShareLinkTag {
  static constexpr const char* kName = "share link";
};
using ShareLink = Index<ShareLinkTag>;

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_SHARE_LINK_H_
