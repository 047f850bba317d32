#ifndef QUIRE_VMM_VERSION_H_
#define QUIRE_VMM_VERSION_H_

namespace quire {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace quire

#endif  // QUIRE_VMM_VERSION_H_
