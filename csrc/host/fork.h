// Forks of this process. A child has the thread that forked and no other, and memory as the others
// left it in the middle of what they did.
#pragma once
#include <shared_mutex>

namespace halfbyte {

// How many forks lie between the process that loaded this code and this one.
int forks_so_far();

// Held by work that a child could not do without its end (a lock held, a page half written): a fork
// waits for it. Never held across a fork by the thread that forks, nor while waiting for Python.
using Unforked = std::shared_lock<std::shared_mutex>;
Unforked unforked();

}  // namespace halfbyte
